"""All pages of the product in a browser: walk.py opens them, test_accessibility.py and gallery.py look at them."""
