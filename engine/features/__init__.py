"""What single feature maps look for, and how they answer as an attack grows. Imports torch."""
