"""Capability scores and interaction styles, rated by a fine-tuned model. Start with `capability.py`.

One vocabulary for the whole room:

- capability: one of the 14 of curation/taxonomy.py, named by its key; style: one of its nine interaction
  styles
- query: the text a rater is asked about one sample, one for each capability and one for the styles
  (`queries.py`; `released.py` reads the published ones from a clone of the released code)
- question: a query as tokens, with the candidate answers whose log-probability is read (`trie.py`)
- log-probs: of the candidate answers of a question; for a capability those of the digits 0..5, for styles of
  the names
- score: a capability's value 0..5 derived from the digits' log-probs (`capability.digit_scores`)
"""
