import gc

# Until all tests are collected: thousands of them are made, and stay.
gc.disable()
