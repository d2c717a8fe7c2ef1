"""Server-side codecs, one file per wire protocol: ``parse`` a request, ``render`` an answer or an error."""
