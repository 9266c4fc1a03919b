"""What things are: models, settings, the operator table, products, devices and their profiles."""
