"""Exit with 0 if the server in this container is ready: its ``GET /health`` answers 200."""

import os
import sys
from urllib.request import urlopen

URL = f"http://127.0.0.1:{os.environ.get('ANTIPHON_SERVER_PORT', '8787')}/health"
try:
    urlopen(URL, timeout=3).close()
except OSError as error:
    sys.exit(f"{URL}: {error}")
