"""SQL expressions for a caller's role, the fact that `domain.access` decides by.

`%(user)s` is the caller's id. A further kind of role is a branch here.
"""

# Of the chat `c`.
CHAT_ROLE = "case when c.owner_id = %(user)s then 'owner' end"
# Of the session `s`. Without a user, the session's id is the right.
SESSION_ROLE = "case when %(user)s::text is null then 'bearer' when s.user_id = %(user)s then 'owner' end"
