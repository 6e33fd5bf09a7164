"""The pictures of the page, as Plotly figures."""
