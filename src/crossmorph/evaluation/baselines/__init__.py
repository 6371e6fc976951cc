"""The methods that registration is compared with."""
