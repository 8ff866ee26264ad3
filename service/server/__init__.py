"""The server around the application: connections that are bounded, signals, a process that ends when its engine has."""
