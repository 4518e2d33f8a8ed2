"""Small models of what runs at once, searched exhaustively by calling the real decisions."""
