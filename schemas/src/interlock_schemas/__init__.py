"""What crosses the wire in Interlock, as data: events, commands, subjects, streams, legacy names.

Depends on msgspec alone. Event structs live in one module per domain
(``interlock_schemas.training.TrainingCompleted``); `interlock_schemas.catalogue` knows them all.
"""
