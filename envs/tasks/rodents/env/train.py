import pandas as pd
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
columns = ["month", "plot_id", "weight"]

model = GridSearchCV(SVC(), {"C": [0.1, 1, 10, 100]}, cv=5)
model.fit(train[columns].fillna(0), train["target"])

prediction = model.predict(test[columns].fillna(0))
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
