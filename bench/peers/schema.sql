-- The tables of the peers that keep chats, as such an app usually has them.
create schema peer;
create table peer.chats (
    id          uuid primary key default gen_random_uuid(),
    user_id     text not null,
    title       text not null,
    created_at  timestamptz not null default now()
);
create table peer.messages (
    id          uuid primary key default gen_random_uuid(),
    chat_id     uuid not null references peer.chats,
    position    bigserial not null,
    role        text not null,
    content     text not null,
    created_at  timestamptz not null default now()
);
create index on peer.messages (chat_id, position);
create table peer.sessions (
    id          uuid primary key default gen_random_uuid(),
    chat_id     uuid not null references peer.chats,
    model_id    text not null,
    created_at  timestamptz not null default now()
);
