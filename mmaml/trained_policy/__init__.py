"""A trained policy for a loop of the user's own: act, record, adapt, save, export. Needs neither MPI nor the family."""
