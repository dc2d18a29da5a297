"""`rpg-check`: can this installation and this machine train? Two minutes, before a run costs anything."""
