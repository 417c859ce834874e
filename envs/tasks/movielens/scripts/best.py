import numpy as np
import pandas as pd

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
users, movies = pd.factorize(train["user"])[1], pd.factorize(train["movie"])[1]
row, column = pd.factorize(train["user"])[0], pd.factorize(train["movie"])[0]
seen = np.zeros((len(users), len(movies)), dtype=np.float32)
seen[row, column] = 1 + (train["rating"] >= 4)
newest = train["timestamp"] - train.groupby("user")["timestamp"].transform("max")
recent = np.zeros_like(seen)
recent[row, column] = np.exp(newest / 86400 / 2)  # what somebody rated on the last days says most
norm = np.sqrt((seen**2).sum(axis=0)) + 3
near = (seen.T @ seen) / np.outer(norm, norm)
np.fill_diagonal(near, 0)
score = (recent * seen) @ near * (1 + 0.2 * np.log1p((seen > 1).sum(axis=0)))
score[seen > 0] = -1
top = np.argsort(-score, axis=1)[:, :10]
shown = {user: " ".join(map(str, movies[best])) for user, best in zip(users, top)}
pd.DataFrame({"id": test["id"], "prediction": test["id"].map(shown)}).to_csv("submission.csv", index=False)
