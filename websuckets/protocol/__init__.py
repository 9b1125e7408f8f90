"""Wire format: messages, close codes, and the contract of transports."""
