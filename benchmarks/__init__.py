"""What is measured: ``python -m benchmarks`` lists it, ``python -m benchmarks NAME`` does it."""
