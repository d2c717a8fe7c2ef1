"""One function per API operation: check the rules between members and state, then write to the store.

Main entry: :data:`understudy.operations.registry.OPERATIONS`.
"""
