import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")

words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=5, sublinear_tf=True)
model = make_pipeline(make_union(words, letters), LogisticRegression(C=4, max_iter=300))
model.fit(train["review"], train["target"])

prediction = model.predict_proba(test["review"])[:, 1]
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
