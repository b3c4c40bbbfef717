"""The survey of ``benchmarks/zoo/run.py``: one file a tool, one file a question asked of what the tool returns."""
