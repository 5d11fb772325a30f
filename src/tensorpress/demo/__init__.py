"""The demo's own data and network: handwritten digits and a small ResNet trained on them, both at hand without a download."""
