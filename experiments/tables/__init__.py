"""The generated tables of docs/results.md and README.md: functions from the rows of results/ to Markdown."""
