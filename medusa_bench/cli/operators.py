"""`medusa-bench operators`: the operator table, with symbols and with numbers."""
