"""What an application imports: built on the official ``openai`` client alone.

The public names are those of ``antiphon`` itself (``from antiphon import Chat``), which imports them when first used.
"""
