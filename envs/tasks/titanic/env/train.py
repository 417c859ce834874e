import pandas as pd
from sklearn.neighbors import KNeighborsClassifier

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
X, X_test = train[["age"]].fillna(0), test[["age"]].fillna(0)

model = KNeighborsClassifier(n_neighbors=3)
model.fit(X, train["target"])

prediction = model.predict(X_test)
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
