"""The sources that `stream.name` may name, a module each, imported only when named."""
