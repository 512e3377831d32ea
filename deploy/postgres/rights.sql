-- What the broker and the auditor may do. `dayfly-broker migrate` runs this as the owner after every step of the schema.

REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC, dayfly_broker, dayfly_auditor;

-- The past is only added to: no right to change or remove a record, a version of a document, a task or a lease.
GRANT SELECT, INSERT ON audit, document_history TO dayfly_broker;
GRANT SELECT, INSERT, UPDATE ON tasks, leases, nodes, approvals, kills, withheld_keys, brokers, audit_lost TO dayfly_broker;
GRANT SELECT, UPDATE ON rules, brake TO dayfly_broker;
GRANT SELECT, INSERT, UPDATE, DELETE ON documents, taken_assertions, issue_keys, live_leases, aws_slots, aws_documents TO dayfly_broker;
GRANT SELECT ON schema_floor, _sqlx_migrations TO dayfly_broker;

GRANT SELECT ON audit TO dayfly_auditor;
