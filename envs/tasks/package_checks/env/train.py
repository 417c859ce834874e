import pandas as pd
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.model_selection import GridSearchCV

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
columns = ["authors", "descr", "imports", "r_count", "r_size"]

settings = {"n_estimators": [200, 400, 800], "max_depth": [2, 3, 4]}
model = GridSearchCV(GradientBoostingRegressor(random_state=0), settings, cv=5)
model.fit(train[columns], train["target"])

prediction = model.predict(test[columns])
pd.DataFrame({"id": test["id"], "prediction": prediction}).to_csv("submission.csv", index=False)
