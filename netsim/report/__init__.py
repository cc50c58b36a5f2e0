"""Reports: table, pictures and page of a comparison."""
