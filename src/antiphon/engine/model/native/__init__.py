"""The llama.cpp libraries on this machine: finding them, loading one, testing and comparing them, building one."""
