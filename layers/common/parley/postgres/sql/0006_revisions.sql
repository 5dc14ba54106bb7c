-- A chat's revision grows in every transaction that writes to it; a message has that of its last change. So a
-- client that knows a revision asks for what is newer. Rows from before have 0, and count as known.
--
-- There is no index: `revision` changes with every reply, and an index on it would have every such update write to
-- all indexes of `messages`. A chat's messages are found by the index on (chat_id, position).
alter table chats add column revision bigint not null default 0;
alter table messages add column revision bigint not null default 0;
