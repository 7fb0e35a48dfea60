"""What is deleted and when: leftovers of dead runs, unused layers, versions beyond `keep:`."""
