from core import unused_imports

unused_imports.skip()  # before any library is imported
