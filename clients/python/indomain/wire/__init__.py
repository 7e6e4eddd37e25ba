"""Values of the contract as they travel: messages as JSON. Shared by the SDK and the gateway."""
