-- The fields of `ModelOptions`: bounds of a model's requests, and names of request fields that its server expects.
alter table models add column options jsonb not null default '{}';
