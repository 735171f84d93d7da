"""seqrl from Python: what `import seqrl` offers."""
