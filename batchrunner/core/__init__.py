"""The ground: frozen values and pure rules. Nothing here opens, sends, awaits, reads a clock or rolls dice."""
