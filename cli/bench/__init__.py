"""What ``headway bench`` runs."""
