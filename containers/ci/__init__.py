"""Documents of pipeline services that run builds: values in, plain documents out."""
