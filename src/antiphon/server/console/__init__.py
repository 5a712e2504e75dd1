"""The console: pages for a browser that show what the server does, and the endpoints behind them."""
