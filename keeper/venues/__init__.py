"""One module per AMM, and the router over them."""
