"""What ``headway simulate`` runs."""
