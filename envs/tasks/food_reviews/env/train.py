import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
words = CountVectorizer(max_features=300)
X, X_test = words.fit_transform(train["review"]), words.transform(test["review"])

model = MultinomialNB()
model.fit(X, train["target"])

prediction = model.predict_proba(X_test)[:, 1]
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
