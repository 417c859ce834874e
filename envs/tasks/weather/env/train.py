import pandas as pd
from sklearn.tree import DecisionTreeRegressor

train = pd.read_csv("train.csv").fillna(0)
test = pd.read_csv("test.csv").fillna(0)
targets = ["temp_next", "humid_next", "wind_next"]
X = train.drop(columns=["id", "origin", *targets])

model = DecisionTreeRegressor(random_state=0)
model.fit(X, train[targets])

prediction = model.predict(test[X.columns])
pd.DataFrame(prediction, columns=targets, index=test["id"]).to_csv("submission.csv")
