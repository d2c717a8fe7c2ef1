"""The face for people and their tools: health, Prometheus, status; the browser console comes here."""
