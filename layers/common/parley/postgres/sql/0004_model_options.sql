-- How a model's server wants to be asked: its own bounds and the names of its fields (`ModelOptions`).
alter table models add column options jsonb not null default '{}';
