"""What a Windows guest is told: answer files, and the vocabulary that they are held to."""
