-- One generation may have several askers, one after the other. Each is charged what the provider counted, less what
-- those before it were charged.
--
-- `prepaid_…_tokens` is subtracted from what the session is charged at its end: what the askers before it were
-- charged. It is negative where the session was handed over before its end, and owes what was produced until then.
-- `charged_…_tokens` is what its user was charged at its end; null before, and where older code ended it. They are
-- bigint, since a difference of two integers need not fit one.
alter table sessions
    add column prepaid_input_tokens   bigint not null default 0,
    add column prepaid_output_tokens  bigint not null default 0,
    add column charged_input_tokens   bigint,
    add column charged_output_tokens  bigint;
