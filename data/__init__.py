"""Images with stable ids and labels, and files whose content is verified before use."""
