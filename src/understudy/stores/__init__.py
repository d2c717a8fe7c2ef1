"""Where things are kept: records, objects, series and logs, each with a double that lives in memory."""
